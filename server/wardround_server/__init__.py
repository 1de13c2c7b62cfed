"""The coordinator: it never sees a record or, with secure aggregation, a single site's update."""
