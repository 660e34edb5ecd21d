# What a release needs besides the image: no known vulnerabilities, and a signature. docs/release.md goes through it.
# Whatever could not be asked or checked is a failure here, never a success.

# Findings that are let pass, each with a reason and until a day.
ACCEPTED ?= image/accepted-findings
# A line without its day, or after it, counts for nothing.
ACCEPTED_IDS = $(shell awk '/^[A-Z]/ && $$2 ~ /^until:[0-9]+-[0-9]+-[0-9]+$$/ && substr($$2, 7) >= "'$$(date -u +%F)'" {print $$1}' $(ACCEPTED))

PIP_AUDIT_VERSION := 2.10.1
PIP_AUDIT := .cache/pip-audit-$(PIP_AUDIT_VERSION)
CARGO_AUDIT_VERSION := 0.22.2
CARGO_AUDIT := .cache/cargo-audit-$(CARGO_AUDIT_VERSION)
AUDIT_CRATES_FLAGS ?=

.PHONY: audit audit-python audit-crates pip-audit

audit: audit-python audit-crates  ## known vulnerabilities of all that is pinned: Python packages and crates; asks PyPI and RustSec

# PyPI, and not OSV: OSV says of a package that it does not know that nothing is known against it. --strict makes such a package a failure.
audit-python: $(PIP_AUDIT)/bin/pip-audit  ## both locks, by pip-audit
	@for lock in $(LOCKS); do echo $$lock; \
	  $(PIP_AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip --vulnerability-service pypi --progress-spinner off \
	    $(ACCEPTED_IDS:%=--ignore-vuln %) --requirement $$lock \
	  || { echo "$$lock: has vulnerabilities, or could not be audited" >&2; failed=1; }; done; exit $${failed:-0}

pip-audit:  ## for the tests of the audit; where it cannot be had they are left out, but never by CI
	@$(MAKE) --silent $(PIP_AUDIT)/bin/pip-audit || { [ -z "$$CI" ] && echo 'no pip-audit: its tests are left out'; }
$(PIP_AUDIT)/bin/pip-audit:
	$(PYTHON) -m venv --clear $(PIP_AUDIT)
	$(PIP_AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION)

# What is unsound has no severity, so nobody can say that it is a low one. relay/fuzz is in no image.
audit-crates: $(CARGO_AUDIT)/bin/cargo-audit  ## relay/Cargo.lock, by cargo-audit
	$(CARGO_AUDIT)/bin/cargo-audit audit --deny unsound $(AUDIT_CRATES_FLAGS) $(ACCEPTED_IDS:%=--ignore %) --file relay/Cargo.lock

# These tools are built as helm is, never optimised: that takes two minutes, and not ten.
$(CARGO_AUDIT)/bin/cargo-audit:
	@echo 'building cargo-audit $(CARGO_AUDIT_VERSION)'
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --root $(CARGO_AUDIT) \
	  cargo-audit@$(CARGO_AUDIT_VERSION)

# -- The image, by its digest: a tag can be moved --

# What `make image ARGUMENTS=--push` has pushed last, unless it is given.
DIGEST ?= $(shell $(image-digest) 2> /dev/null)
REFERENCE = $(IMAGE)@$(DIGEST)
comma := ,
PLATFORMS = $(subst $(comma), ,$(IMAGE_PLATFORMS))
# Files, or what else cosign takes for a key, such as awskms:///alias/sniproxy.
SIGN_KEY ?= cosign.key
VERIFY_KEY ?= cosign.pub
SIGN_FLAGS ?=
VERIFY_FLAGS ?=

COSIGN_VERSION := v3.1.3
CRANE_VERSION := v0.22.1
GRYPE_VERSION := v0.121.3
COSIGN := .cache/cosign-$(COSIGN_VERSION)
CRANE := .cache/crane-$(CRANE_VERSION)
GRYPE := .cache/grype-$(GRYPE_VERSION)

.PHONY: release-tools image-scan image-sign image-verify need-digest need-cosign need-crane need-grype

release-tools: $(COSIGN)/cosign $(CRANE)/crane $(GRYPE)/grype  ## what scans, signs and verifies, in .cache; needs Go
$(COSIGN)/cosign: ; $(call go-install,github.com/sigstore/cosign/v3/cmd/cosign@$(COSIGN_VERSION))
$(CRANE)/crane: ; $(call go-install,github.com/google/go-containerregistry/cmd/crane@$(CRANE_VERSION))
$(GRYPE)/grype: ; $(call go-install,github.com/anchore/grype/cmd/grype@$(GRYPE_VERSION))
go-install = GOBIN=$(CURDIR)/$(@D) CGO_ENABLED=0 go install -gcflags='all=-N -l -dwarf=false' -ldflags='-s -w' $(1)

# Those of release-tools, or else those on PATH.
image-scan image-sign image-verify: export PATH := $(CURDIR)/$(COSIGN):$(CURDIR)/$(CRANE):$(CURDIR)/$(GRYPE):$(PATH)
need-cosign: ; @$(call need,cosign,$(COSIGN_VERSION))
need-crane: ; @$(call need,crane,$(CRANE_VERSION))
need-grype: ; @$(call need,grype,$(GRYPE_VERSION))
need = { command -v $(1) > /dev/null; } || { \
  echo '$(1) is not there: `make release-tools` builds it with Go, or install $(2) of it' >&2; exit 1; }

need-digest:
	@echo '$(DIGEST)' | grep -Eqx 'sha256:[0-9a-f]{64}' || { \
	  echo 'no digest of the image: `make image ARGUMENTS=--push` comes first, or give DIGEST=sha256:...' >&2; exit 1; }

# Debian's packages, Python packages, and the interpreter itself, which is neither. Also what nobody has a remedy for yet.
image-scan: need-grype need-digest  ## known vulnerabilities of what is in the image, by grype; fails on high and critical ones
	@mkdir -p $(IMAGE_BUILD)
	@echo 'ignore: [$(ACCEPTED_IDS:%={vulnerability: %},)]' > $(IMAGE_BUILD)/grype.yaml
	@for platform in $(PLATFORMS); do echo $$platform; \
	  GRYPE_DB_REQUIRE_UPDATE_CHECK=true grype --config $(IMAGE_BUILD)/grype.yaml --fail-on high --platform $$platform \
	    registry:$(REFERENCE) || failed=1; done; exit $${failed:-0}

# The list of parts is that of the very image which is signed, and the signature comes last: it says that all is there.
image-sign: need-cosign need-crane need-digest  ## the image's lists of parts attested, and the image signed, by cosign with SIGN_KEY
	@mkdir -p $(IMAGE_BUILD)
	@for platform in $(PLATFORMS); do \
	  crane export --platform $$platform $(REFERENCE) - | tar -xO opt/sniproxy/share/sniproxy.cdx.json > $(IMAGE_BUILD)/attested.cdx.json \
	  && cosign attest --yes --key $(SIGN_KEY) $(SIGN_FLAGS) --type cyclonedx --predicate $(IMAGE_BUILD)/attested.cdx.json \
	    $(REFERENCE) || exit 1; done
	@cosign sign --yes --key $(SIGN_KEY) $(SIGN_FLAGS) $(REFERENCE)

image-verify: need-cosign need-digest  ## that VERIFY_KEY's owner has signed the image and a list of its parts
	@mkdir -p $(IMAGE_BUILD)
	@cosign verify --key $(VERIFY_KEY) $(VERIFY_FLAGS) $(REFERENCE) > $(IMAGE_BUILD)/signatures.json
	@cosign verify-attestation --key $(VERIFY_KEY) $(VERIFY_FLAGS) --type cyclonedx $(REFERENCE) > $(IMAGE_BUILD)/attestations.json
