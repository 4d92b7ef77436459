"""The HTML page of the stage report: its sources, pictures, plots and tables, and its templates."""
