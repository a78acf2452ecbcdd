"""One pipeline per job, joining the other rooms."""
