"""What two or more papers need."""
