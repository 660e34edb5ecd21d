# Everything a newcomer or CI needs. `make demo` and `make test` install what they use into .venv.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.installed
TESTS := .venv/.installed-tests
FUZZ_SECONDS ?= 60
# Tests of whole sessions that take either relay; on trio they run with all the others.
SESSIONS := tests/test_session.py tests/test_session_streams.py tests/test_session_access.py \
  tests/test_session_limits.py tests/test_session_refusals.py tests/test_close_reasons.py \
  tests/test_first_flight.py tests/test_session_time.py tests/test_tls_policy.py \
  tests/test_session_bandwidth.py tests/test_session_forbidden.py tests/test_session_counts.py \
  tests/test_session_balancing.py tests/test_session_health.py tests/test_session_metrics.py \
  tests/test_session_upstream_tls.py tests/test_hostile_bytes.py
# What a relay has no part in, or what starts both by itself, and so is not run for each of them.
ONE_RELAY := $(addprefix --ignore tests/e2e/,test_faults.py test_fleet.py test_cold_start.py test_backup.py \
  test_outages.py test_broken_objects.py test_kills.py test_prometheus.py test_side_by_side.py test_workers.py test_stop.py \
  test_upgrade.py test_leaving.py test_rotation.py test_blocked_log.py test_admin_api_bench.py \
  test_chart.py test_key_rotation.py test_certificate_files.py test_apisix_compatibility.py test_health.py test_node_drain.py \
  test_forbidden.py test_eks.py test_migrate.py test_telling.py test_tls_clients.py test_tls_scan.py)
# Much of the tests' time is waiting, so there is one more at once than CI has cores. A file stays in one process, for
# what its tests share; files start in the order of their names, as those that take long are not those of many tests.
TOGETHER := -n 3 --dist loadfile --no-loadscope-reorder -m 'not alone'
# Those that measure time come afterwards, one by one, on the relay that users have; all of them are in tests/e2e.
ALONE := -m alone
# Every Python process that is started imports tests/delays/sitecustomize.py, which delays this and that.
SHAKEN := PYTHONPATH=$(CURDIR)/tests/delays DELAY=0.06
IMPORTED := -W ignore::pytest.PytestAssertRewriteWarning
# In the profile of the module, which is installed before: what it has built of others is not built again.
CLIPPY := cargo clippy --release --locked --all-targets
CRATE := relay/Cargo.toml relay/Cargo.lock $(wildcard relay/src/*.rs relay/src/*/*.rs)
SOURCES := sniproxy admin certs examples image tests bench charts
# Images of Python often set it; here each of a thousand processes would then compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# helm, for the chart and its tests: built with Go where that is there, for its own use and never optimised, which takes
# two thirds of the time. It is told of a Kubernetes as releases of helm are.
HELM_VERSION := v3.22.0
HELM := .cache/helm-$(HELM_VERSION)/helm
HELM_KUBERNETES := -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37
DIST := dist

.PHONY: demo test crate sanitize check format unit e2e cover certs load faults soak bench fuzz fuzz-tls fuzzers clean helm chart \
  metrics-page shake

demo: $(RUNTIME)  ## admin, data plane and three game servers on this machine
	$(BIN)/sniproxy quickstart

test: check crate helm  ## lint, types, unit and end-to-end tests, on both relays
	$(BIN)/pytest $(TOGETHER)
	$(BIN)/pytest tests/e2e $(ALONE)
	SNIPROXY_PROXY__RELAY=trio $(BIN)/pytest tests/e2e $(ONE_RELAY) $(TOGETHER)
	@if $(BIN)/python -c 'import sniproxy._relay' 2> /dev/null; \
	then SNIPROXY_PROXY__RELAY=native $(BIN)/pytest $(SESSIONS) $(TOGETHER); \
	else echo 'the native relay is not built: its tests are left out'; fi

shake: $(TESTS) helm  ## the tests under random delays, where else only luck decides: what leans on it fails here (20 min)
	$(SHAKEN) $(BIN)/pytest $(TOGETHER) $(IMPORTED)
	$(SHAKEN) SNIPROXY_PROXY__RELAY=trio $(BIN)/pytest tests/e2e $(ONE_RELAY) $(TOGETHER) $(IMPORTED)
	$(SHAKEN) SNIPROXY_PROXY__RELAY=native $(BIN)/pytest $(SESSIONS) $(TOGETHER) $(IMPORTED)

crate: $(TESTS)  ## the native relay's own lint and tests, where there is a Rust toolchain
	@unset MAKEFLAGS MFLAGS; if cargo --version > /dev/null 2>&1; \
	then cd relay && cargo fmt --check && $(CLIPPY) -- -D warnings \
	  && $(CLIPPY) --no-default-features -- -D warnings \
	  && cargo test --release --config checked.toml --locked --no-default-features; \
	else echo 'no Rust toolchain: the crate is left out'; fi

helm:  ## helm for the tests of the chart; nothing is built where one is there, or where there is no Go
	@if [ -x $(HELM) ] || { [ -z "$$CI" ] && helm version > /dev/null 2>&1; }; then :; \
	elif go version > /dev/null 2>&1; \
	then echo 'building helm $(HELM_VERSION)'; \
	  GOBIN=$(CURDIR)/$(dir $(HELM)) CGO_ENABLED=0 go install -gcflags='all=-N -l -dwarf=false' \
	    -ldflags='-s -w $(HELM_KUBERNETES)' helm.sh/helm/v3/cmd/helm@$(HELM_VERSION) || [ -z "$$CI" ]; \
	else echo 'neither helm nor Go: the tests of the chart are left out'; fi

chart: helm  ## the Helm chart, packed into dist/
	@mkdir -p $(DIST)
	$$([ -x $(HELM) ] && echo $(HELM) || echo helm) package charts/sniproxy --destination $(DIST)

sanitize:  ## the crate's tests under AddressSanitizer; needs a nightly toolchain
	cd relay && RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/sanitize cargo +nightly test --locked \
	  --no-default-features --target $$(rustc -vV | sed -n 's/^host: //p')

check: $(TESTS)  ## lint and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(TESTS)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

unit: $(TESTS) helm  ## the tests without tests/e2e
	$(BIN)/pytest --ignore tests/e2e $(TOGETHER)

e2e: $(TESTS) helm
	$(BIN)/pytest tests/e2e $(TOGETHER)
	$(BIN)/pytest tests/e2e $(ALONE)

cover: $(TESTS) helm  ## which lines and branches the tests reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --show-missing

.PHONY: prometheus dashboard
test unit e2e cover: prometheus

# Debian's package is unpacked, not installed: no service starts, and nothing outside .venv changes.
prometheus: $(TESTS)  ## promtool and Prometheus for the tests of the alerts, if they are not on PATH
	@{ command -v promtool && command -v prometheus; } > /dev/null || test -x $(BIN)/promtool -a -x $(BIN)/prometheus || { \
	  cd .venv && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; } ; } \
	  && dpkg-deb -x prometheus_*.deb prometheus && rm prometheus_*.deb \
	  && ln -sf ../prometheus/usr/bin/promtool ../prometheus/usr/bin/prometheus bin/; \
	} || echo 'no promtool: the tests of the alerts are left out'

dashboard: $(TESTS)  ## charts/sniproxy/files/dashboard.json, from charts/dashboard.py
	$(BIN)/python -m charts.dashboard

certs: $(RUNTIME)  ## throw-away certificates in certs/
	$(BIN)/python -m certs.make_certs

load: $(TESTS)  ## a pod under load, each scenario against its bar (40 min of idle sessions; needs cargo); crashes, drains, upgrades and new certificates under players; every way a session may end, slow clients and garbage; a million short sessions (85 min)
	$(BIN)/python -m bench.load
	$(BIN)/python -m bench.leaving
	$(BIN)/python -m bench.rotation
	$(BIN)/python -m bench.endings
	$(BIN)/python -m bench.hostile
	$(BIN)/python -m bench.soak --sessions 0

faults: $(TESTS)  ## each fault of etcd and of the network to it once, under players and writers; 50 leaders killed (4 min)
	$(BIN)/python -m bench.faults --each
	$(BIN)/python -m bench.faults --each --only kill-leader --times 50

soak: $(TESTS)  ## faults for half an hour, etcd dead and paused for ten minutes each; 20 000 sessions for ten minutes, then a million short ones (needs cargo)
	$(BIN)/python -m bench.faults --minutes 30
	$(BIN)/python -m bench.faults --each --only kill-all --only pause-all --last 600
	$(BIN)/python -m bench.soak

bench: $(TESTS)  ## what the configuration, picking a node, counting and a scrape cost, changes in force; then us, HAProxy, nginx and Envoy side by side; installs the extra [bench], needs cargo
	$(BIN)/python -m bench.snapshot
	$(BIN)/python -m bench.picks
	$(BIN)/python -m bench.statistics
	$(BIN)/python -m bench.observing
	$(BIN)/python -m bench.scrape
	$(BIN)/python -m bench.telling
	$(BIN)/python -m bench.fleet
	$(BIN)/python -m bench.live_changes
	$(BIN)/python -m bench.admin_api
	-$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	$(BIN)/python -m bench.side_by_side

metrics-page: $(RUNTIME)  ## docs/metrics.md, made of the code
	$(BIN)/python -m sniproxy.metrics.page > docs/metrics.md

FUZZED := hello name proxy
fuzz: $(FUZZED:%=fuzz-%)  ## coverage-guided, FUZZ_SECONDS for each reader, with -j at once; installs the extra [fuzz]

.PHONY: $(FUZZED:%=fuzz-%)
$(FUZZED:%=fuzz-%): fuzz-%: fuzzers
	$(BIN)/python -m bench.fuzz_$* -max_total_time=$(FUZZ_SECONDS)

# As cargo-fuzz has it, which is not needed for it.
COVERAGE := -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
fuzz-tls:  ## the path of TLS records, coverage-guided and under AddressSanitizer, for FUZZ_SECONDS; needs a nightly toolchain and a C++ compiler
	mkdir -p relay/target/corpus
	cd relay/fuzz && RUSTFLAGS='$(COVERAGE) -Zsanitizer=address' CARGO_TARGET_DIR=../target/fuzz \
	  cargo +nightly run --release --locked --target $$(rustc -vV | sed -n 's/^host: //p') -- \
	  ../target/corpus -max_total_time=$(FUZZ_SECONDS) -timeout=20 -max_len=4096 -len_control=0

fuzzers: $(TESTS)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,fuzz]'

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

include image/image.mk
include image/release.mk
test unit cover image-check: pip-audit
# There are no tests where the image is made.
-include tests/support/tls_client/clients.mk tests/support/chart_tools.mk tests/support/etcd.mk \
  tests/support/kubernetes/kubernetes.mk tests/image/arm64.mk
test unit e2e cover: tls-clients
test unit e2e cover: etcd
test unit cover: chart-tools

$(RUNTIME): pyproject.toml $(CRATE) | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(TESTS): pyproject.toml $(CRATE) | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $(RUNTIME) $@
