"""What every domain builds on, and no feature: errors, texts, clock, base models."""
