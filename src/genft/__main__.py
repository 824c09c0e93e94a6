"""``python -m genft``, the same as ``genft``."""

from genft_cli import main

if __name__ == "__main__":
    main()
