"""Runs the database, or a part of it, from the command line."""

from __future__ import annotations

import argparse
import pickle
import sys
import warnings

import torch

from tests.ad.opdb.farm import run
from tests.ad.opdb.recording import judge_by_force, judge_record, tally
from tests.ad.opdb.summary import listing, one_line
from tests.ad.opdb.units import LEFT_OUT, units
from tests.ad.opdb.verdicts import MODES, PLAIN, judge


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ad.opdb", description=__doc__)
    parser.add_argument("--strategy", default="auto", help=f"a strategy of hvplib.hvp, or {', '.join(PLAIN)}")
    parser.add_argument("--mode", default="all", choices=MODES)
    parser.add_argument("--force-recording", action="store_true", help="every product from a record")
    parser.add_argument("--records", action="store_true", help="hold records against their graphs instead")
    parser.add_argument("--ops", nargs="*", default=[], help="parts of unit names, such as op:nn or cdist")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--traceback", action="store_true", help="in this process, with tracebacks")
    parser.add_argument("--notes", action="store_true", help="tell of single samples too")
    parser.add_argument("--save", help="file for the pickled verdicts")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [
        unit
        for unit in units()
        if unit.name not in LEFT_OUT and (not options.ops or any(part in unit.name for part in options.ops))
    ]

    def one(unit):  # type: ignore[no-untyped-def]
        if options.records:
            return judge_record(unit, options.samples)
        verdict = judge_by_force if options.force_recording else judge
        return verdict(unit, options.strategy, options.mode, options.samples)

    if options.traceback:
        _show_tracebacks()
        verdicts = [one(unit) for unit in chosen]
    else:
        verdicts = list(run(chosen, one, jobs=options.jobs, timeout=options.timeout))
    sys.stdout.write(listing(verdicts, notes=options.notes) + "\n" + one_line(verdicts) + "\n")
    if options.records:
        sys.stdout.write(tally(verdicts) + "\n")
    if options.save:
        with open(options.save, "wb") as stream:
            pickle.dump(verdicts, stream)
    return 0


def _show_tracebacks() -> None:
    from tests.ad.opdb import verdicts

    inner = verdicts.product

    def loud(*arguments):  # type: ignore[no-untyped-def]
        try:
            return inner(*arguments)
        except Exception:
            import traceback

            traceback.print_exc()
            raise

    verdicts.product = loud


if __name__ == "__main__":
    sys.exit(main())
