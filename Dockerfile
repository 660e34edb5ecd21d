# syntax=docker/dockerfile:1
#
#     make image IMAGE=registry.example.com/sniproxy ARGUMENTS=--push       # linux/amd64 and linux/arm64
#
# The steps are targets of image/image.mk; no other command of ours stands here. Each platform is built natively or under
# emulation, never cross-compiled: what is installed is what pip finds for the platform that it runs on.
#
# A tag can be moved, a digest cannot. A release pins both bases by the digest of their index, which names all platforms:
#     docker buildx imagetools inspect python:3.13-slim-trixie --format '{{.Manifest.Digest}}'
#     make image ARGUMENTS='--push --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:...'
# Python packages are pinned by image/*.lock (`make lock`), crates by relay/Cargo.lock, both with their hashes.
ARG PYTHON_IMAGE=python:3.13-slim-trixie
ARG RUST_IMAGE=rust:1.95-slim-trixie

FROM ${RUST_IMAGE} AS rust

FROM ${PYTHON_IMAGE} AS build
ARG TARGETPLATFORM
# Nothing of these is in the image.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev make \
 && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/var/cache/pip
WORKDIR /src
COPY Makefile ./
COPY image image
RUN --mount=type=cache,id=pip-$TARGETPLATFORM,target=/var/cache/pip \
    make image-tools
COPY pyproject.toml README.md LICENSE ./
COPY relay relay
COPY certs certs
COPY examples examples
COPY admin admin
COPY sniproxy sniproxy
RUN --mount=type=cache,id=pip-$TARGETPLATFORM,target=/var/cache/pip \
    --mount=type=cache,id=crates-$TARGETPLATFORM,target=/usr/local/cargo/registry \
    --mount=type=cache,id=relay-$TARGETPLATFORM,target=/src/relay/target \
    make image-root sbom ROOT=/opt/sniproxy

# docker buildx build --target sbom --output . .    writes the list of parts, sniproxy.cdx.json
FROM scratch AS sbom
COPY --from=build /opt/sniproxy/share/sniproxy.cdx.json /

FROM ${PYTHON_IMAGE}
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="sniproxy" \
      org.opencontainers.image.description="One TLS address in front of thousands of game servers: SNI routing, passthrough and termination, live from etcd" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Python's own library comes uncompiled, and cannot be compiled where the root cannot be written: each process would do it anew.
RUN python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.13 \
 && groupadd --gid 10001 sniproxy \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/sniproxy --shell /usr/sbin/nologin sniproxy \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/sniproxy
COPY --from=build /opt/sniproxy /opt/sniproxy
ENV PATH=/opt/sniproxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can see that it is not root. Only /var/lib/sniproxy and /tmp are written.
USER 10001:10001
WORKDIR /var/lib/sniproxy
EXPOSE 8888 9180 7085
ENTRYPOINT ["sniproxy"]
CMD ["--help"]
