"""What the notebooks need to run as a course: settings, runs, records, and checks of exercises."""
