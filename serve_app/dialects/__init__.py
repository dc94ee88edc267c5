"""Dialects: the APIs that clients use, each as wire shapes and pure functions that convert between these and the app's values."""
