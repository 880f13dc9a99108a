# make run: a server for localhost, nothing configured. make test: everything that is checked. See CONTRIBUTING.md.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Clients from the distribution that the interoperability tests drive, besides Gajim's library; those tests are skipped where
# they are missing.
CLIENTS   := go-sendxmpp mcabber profanity sendxmpp tmux
# Test files that run at a time: they mostly wait for the servers that they start, so there may be more than there are cores.
WORKERS   ?= 3
# make bench BENCH=--quick; `python -m tests.bench compare --help` lists what else there is.
BENCH     ?=

.PHONY: run test check lint gen bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.installed
	$(BIN)/beamish serve --demo

test: $(VENV)/.installed-test clients smack suites check

# What `test` does once everything is installed.
check: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gen: $(VENV)/.installed
	$(BIN)/beamish dev gen

# Beamish, Prosody and ejabberd under the same load, in one run; says first how long it takes.
bench: $(VENV)/.installed-test
	sh tests/bench/peers.sh
	$(BIN)/python -m tests.bench compare $(BENCH)

# Leaves ./var alone: it holds accounts and messages.
clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# -- installation ------------------------------------------------------------------------------------------------------

# Runs apt-get as root or through a sudo that asks nothing; fails quietly where neither works.
apt_install = \
	if [ "$$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else exit 1; fi; \
	command -v apt-get >/dev/null || exit 1; \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null && \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(1) >/dev/null

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Beamish needs Python 3.11 or later")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || ( $(call apt_install,python3-venv) ) || \
		{ echo 'python3-venv is missing and cannot be installed from here: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

# aioxmpp is left alone with its wish for an lxml of years ago: it works with today's, as the tests that use it show.
# What it needs otherwise is in the extra `test`.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps aioxmpp
	@touch $(VENV)/.installed $@

.PHONY: clients
clients:
	@missing=; for client in $(CLIENTS); do command -v $$client >/dev/null || missing="$$missing $$client"; done; \
	/usr/bin/python3 -c 'import nbxmpp' 2>/dev/null || missing="$$missing python3-nbxmpp"; \
	[ "$$(id -u)" != 0 ] || command -v systemd-nspawn >/dev/null || missing="$$missing systemd-container"; \
	[ -z "$$missing" ] || ( $(call apt_install,$$missing) ) 2>/dev/null || { \
		left=; for each in $$missing; do ( $(call apt_install,$$each) ) || left="$$left $$each"; done; \
		[ -z "$$left" ] || echo "not installed, and their tests are skipped:$$left (apt-get install$$left)" >&2; }

# Smack's integration tests, where there is Java to run them and Maven to fetch them (20 MB).
SMACK := $(VENV)/smack
.PHONY: smack
smack:
	@[ -e $(SMACK)/.complete ] || ! command -v java >/dev/null || ! command -v mvn >/dev/null || \
		( mvn --quiet --batch-mode --file tests/interop/smack/pom.xml dependency:copy-dependencies \
			-DoutputDirectory='$(CURDIR)/$(SMACK)' >/dev/null && touch $(SMACK)/.complete ) || \
		echo "Smack's integration tests could not be fetched, and are skipped" >&2

# The test suites of slixmpp and aioxmpp (10 MB, of which nearly all is apt's list of sources), and libraries for
# test_languages.py; the script says what it cannot get.
.PHONY: suites
suites: $(VENV)/.installed-test
	@sh tests/interop/suites.sh $(VENV)/suites
