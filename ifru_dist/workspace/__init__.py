"""The only room that knows files: versions, tables, graph, examples, requests."""
