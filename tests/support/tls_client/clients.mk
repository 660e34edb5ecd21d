# Players of other makes, for the tests of TLS: what is not there and cannot be had is left out, but never by CI.
TLS_CLIENT := .cache/tls_client
GNUTLS := .cache/gnutls
TLS_CLIENT_SOURCES := $(addprefix tests/support/tls_client/,main.go go.mod go.sum)

.PHONY: tls-clients
tls-clients:  ## Go's TLS and a browser's hello, GnuTLS's gnutls-cli: for the tests of TLS
	@if go version > /dev/null 2>&1; \
	then $(MAKE) --silent $(TLS_CLIENT) || [ -z "$$CI" ]; \
	else echo 'no Go: its TLS and the browser are left out of the tests'; fi
	@command -v gnutls-cli > /dev/null || test -x $(GNUTLS)/usr/bin/gnutls-cli || $(MAKE) --silent gnutls \
	  || echo 'no gnutls-cli: its tests are left out'

# As helm is: what both need is compiled once.
$(TLS_CLIENT): $(TLS_CLIENT_SOURCES)
	@echo 'building the player of Go'
	@cd tests/support/tls_client && CGO_ENABLED=0 go build -gcflags='all=-N -l -dwarf=false' -ldflags='-s -w' \
	  -o $(CURDIR)/$@ .

# Debian's packages are unpacked, not installed: nothing outside .cache changes.
.PHONY: gnutls
gnutls: PACKAGES := gnutls-bin libgnutls-dane0 libunbound8
gnutls:
	@echo "unpacking gnutls-cli"
	@rm -rf $(GNUTLS) && mkdir -p $(GNUTLS) && cd $(GNUTLS) \
	  && { apt-get download -q $(PACKAGES) || { apt-get update -q && apt-get download -q $(PACKAGES); } ; } \
	  && for one in *.deb; do dpkg-deb -x "$$one" . || exit 1; done && rm *.deb

SSLYZE := .cache/sslyze

.PHONY: scan
scan: $(TESTS) $(SSLYZE)/bin/sslyze  ## our TLS under a scanner of others, on both relays; installs sslyze into .cache
	$(BIN)/pytest tests/e2e/test_tls_scan.py

$(SSLYZE)/bin/sslyze:
	@$(PYTHON) -m venv $(SSLYZE)
	@$(SSLYZE)/bin/pip install --quiet --disable-pip-version-check 'sslyze>=6.3,<7'
