"""What a run of a notebook is: its settings, its stages, its record, and what the records say."""
