"""Pictures on their way in: sources, the raw format, betons."""
