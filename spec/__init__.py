"""What Xen on Arm must do: plain Python that runs on integers and is proved on symbols."""
