"""What the commands need of each library: arrays for the demo, peers to compare with."""
