"""Workers, their gang on Ray, and what happens when one fails."""
