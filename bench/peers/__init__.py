"""The peers' programs: what people write, or run, where Towpath is not."""
