"""What a run is, and the result that it leaves."""
