"""Figures and stories for operators: in the terminal, as a file of HTML, as CSV. JSON is what the database answers."""
