"""``python -m fastscore``, which ``torchrun -m fastscore`` starts on every device: the program ``fastscore``."""

from fastscore_launch import main

if __name__ == "__main__":
    main()
