"""What the operating system offers: safe files, memory, processors."""
