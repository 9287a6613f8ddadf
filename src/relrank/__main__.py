"""``python -m relrank``, which is also what ``torchrun -m relrank`` starts."""

from relrank.cli.app import main

if __name__ == "__main__":
    main()
