"""Facial-expression recognition for photos and videos, without a deep-learning framework."""
