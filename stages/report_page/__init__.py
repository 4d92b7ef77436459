"""The HTML page of the report stage: what it reads, its pictures, figures and tables, and its template."""
