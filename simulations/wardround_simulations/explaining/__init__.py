"""What a model looked at: `wardround explain`."""
