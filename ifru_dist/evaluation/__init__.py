"""What forgotten and good are measured by; pure functions on arrays, and the report files."""
