# The image's tree for the other platform, made and tested on x86: by the Dockerfile's own steps, in a base as slim as that of
# the image, whose programs are emulated. Too long for CI.
ARM64 := .cache/arm64
ARM64_BUILDER := $(ARM64)/builder
EMULATED = tests/image/emulated.sh $(CURDIR)/$(ARM64)/tools/usr/bin/qemu-aarch64
# $(1): what to run in the builder, with nothing of this machine's settings. As in the Dockerfile, what was downloaded and built is
# kept for the next time.
in-builder = $(EMULATED) sh -ec 'mount -t proc proc $(ARM64_BUILDER)/proc; \
  exec chroot $(ARM64_BUILDER) /usr/bin/env --ignore-environment QEMU_CPU="$$QEMU_CPU" PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive \
    PIP_CACHE_DIR=/var/cache/pip PIP_ROOT_USER_ACTION=ignore CARGO_TARGET_DIR=/var/cache/relay sh -exc "$$0"' '$(1)'
# What the Dockerfile copies, and what it then runs.
ARM64_SOURCES = $(shell sed -n 's/^COPY \([^-].*\) [^ ]*$$/\1/p' Dockerfile)
ARM64_STEPS = $(shell sed -n 's/^ *\(make .*\)/\1;/p' Dockerfile)

.PHONY: image-check-arm64
image-check-arm64: $(TESTS) $(ARM64)/.builder  ## the tree of the image for linux/arm64, made and run under emulation; needs Debian on x86, and root
	rm -rf $(ARM64_BUILDER)/src $(ARM64)/base/opt/sniproxy && mkdir $(ARM64_BUILDER)/src
	git ls-files -z $(ARM64_SOURCES) | tar -c --null --files-from - | tar -x -C $(ARM64_BUILDER)/src
	$(call in-builder,cd /src; $(ARM64_STEPS))
	cp -a $(ARM64_BUILDER)/opt/sniproxy $(ARM64)/base/opt/
	SNIPROXY_IMAGE_ROOT=/opt/sniproxy SNIPROXY_IMAGE_BASE=$(CURDIR)/$(ARM64)/base $(EMULATED) $(BIN)/pytest tests/image/test_image_root.py

# Debian's packages are unpacked, not installed: nothing outside .cache changes. qemu is that of trixie, with lists of its own: under
# an older one (7.2) what is forked off a cargo with many threads may wait for a lock forever.
ARM64_APT = apt-get -q -o Dir::Etc::sourcelist=$(CURDIR)/$(ARM64)/tools/sources.list -o Dir::Etc::sourceparts=- \
  -o Dir::State::lists=$(CURDIR)/$(ARM64)/tools/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
$(ARM64)/.base:
	@echo 'unpacking qemu, and a base for arm64'
	rm -rf $(ARM64) && mkdir -p $(ARM64)/tools/lists/partial
	echo 'deb http://deb.debian.org/debian trixie main' > $(ARM64)/tools/sources.list
	cd $(ARM64)/tools && $(ARM64_APT) update && $(ARM64_APT) download qemu-user debootstrap \
	  && for one in *.deb; do dpkg-deb -x "$$one" . || exit 1; done && rm *.deb
	DEBOOTSTRAP_DIR=$(CURDIR)/$(ARM64)/tools/usr/share/debootstrap $(EMULATED) $(ARM64)/tools/usr/sbin/debootstrap --no-check-gpg \
	  --arch=arm64 --variant=minbase --include=python3,python3-venv trixie $(ARM64)/base http://deb.debian.org/debian > /dev/null
	touch $@

# With Debian's own Rust, which is the oldest that the relay is for, and what certificates this machine trusts.
$(ARM64)/.builder: $(ARM64)/.base
	rm -rf $(ARM64_BUILDER) && cp -a $(ARM64)/base $(ARM64_BUILDER)
	cp /etc/ssl/certs/ca-certificates.crt $(ARM64_BUILDER)/etc/ssl/certs/
	$(call in-builder,apt-get update -q; apt-get install -qq -o Dpkg::Use-Pty=0 --no-install-recommends gcc libc6-dev make cargo rustc > /dev/null)
	touch $@
