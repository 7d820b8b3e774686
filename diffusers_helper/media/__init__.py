"""Pictures and videos in and out: files become arrays, arrays become files. Knows numpy, Pillow and PyAV, no torch."""
