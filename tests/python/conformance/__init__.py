"""The same raw bytes to several servers: what each answers, what its application sees, and why they differ."""
