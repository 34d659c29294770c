"""Interfaces to the operating system: files, disks, memory and the CPU."""
