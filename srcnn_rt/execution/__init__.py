"""One image through a network: plan, render, write."""
