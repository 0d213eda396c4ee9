"""`make bench`: every benchmark, or those named. Each prints a table and a JSON line; see bench/README.md."""

import argparse
import importlib
import pkgutil
import sys

import bench


def names() -> list[str]:
    """The benchmarks there are: modules of this folder that start with `bench_`."""
    return sorted(
        m.name.removeprefix("bench_") for m in pkgutil.iter_modules(bench.__path__) if m.name.startswith("bench_")
    )


def main() -> int:
    """Run the chosen benchmarks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names())} (default: all)")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(names())}")
    for name in given.names or names():
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.bench_{name}").main([])
    return 0


if __name__ == "__main__":
    sys.exit(main())
