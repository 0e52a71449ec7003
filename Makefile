# Two commands matter: `make demo` and `make test`. Both install what they need.
UV := .bootstrap/bin/uv
RUN := $(UV) run --frozen

.PHONY: help demo test check bench faults fuzz simulate lab-up lab-down docs style types
help:
	@echo "make demo      a lost site to switched traffic with proof, on real hosts (root, Debian or Ubuntu)"
	@echo "make test      everything that CI runs"
	@echo "make check     style, types, docs and the tests that need no lab (some four minutes on two cores)"
	@echo "make bench     speed as ratios against a baseline of the same run"
	@echo "make faults    the whole fault matrix (long; SEED=n TRIALS=n)"
	@echo "make fuzz      garbage from a runner, and in the place of every kind of record (SEED=n CASES=n)"
	@echo "make simulate  schedules of the loop and the switch, any number, goes on after a stop (SCHEDULES=n SEED=n)"
	@echo "make lab-up lab-down   the real hosts, to try things by hand"

demo:
	@tools/setup --lab
	@$(RUN) python -m hyops_lab.demo

check:
	@tools/setup --tests
	@$(MAKE) --no-print-directory -j2 -Otarget style types docs  # each keeps one core busy
	$(RUN) pytest -q -n 4 --dist worksteal -m "not lab"  # they wait more than they compute: two a core

test: check
	@tools/setup --lab
	$(RUN) pytest -q -m lab tests/lab -n 2 --dist worksteal  # a lab each: they wait for hosts more than they compute

style:
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types:
	$(RUN) mypy

bench:
	@tools/setup --lab --tests
	$(RUN) python -m bench

faults:
	@tools/setup --lab --tests
	HYOPS_FAULTS=full HYOPS_SEED=$(or $(SEED),1) HYOPS_TRIALS=$(or $(TRIALS),20) $(RUN) pytest -q -m "lab or fault"

fuzz:
	@tools/setup --tests
	HYOPS_SEED=$(or $(SEED),1) HYOPS_FUZZ=$(or $(CASES),1000000) $(RUN) pytest -q tests/unit/adapters/test_frames_fuzz.py
	HYOPS_SEED=$(or $(SEED),1) HYOPS_FUZZ=$(or $(CASES),100000) $(RUN) pytest -q -n auto tests/unit/model/test_records_fuzz.py

simulate:
	@tools/setup --tests
	PYTHONPATH=tests $(RUN) python -m simulation.search --schedules $(or $(SCHEDULES),10000) --seed $(or $(SEED),1)

lab-up:
	@tools/setup --lab
	@$(RUN) hyops lab up

lab-down:
	@$(RUN) hyops lab down

docs:
	@tools/setup
	$(RUN) mkdocs build -q --strict
