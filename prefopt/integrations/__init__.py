"""The losses inside other people's trainers; each module needs its library and is imported by name."""
