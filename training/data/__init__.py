"""Readers of data sets, and batched augmentation."""
