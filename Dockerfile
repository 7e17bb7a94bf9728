# syntax=docker/dockerfile:1

# The image needs glibc: NVIDIA's driver library, which the container runtime
# adds at start, does not load under musl or in a static program.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" \
    go build -trimpath -ldflags "-s -w -X main.release=${VERSION}" -o /anteroom ./cmd/anteroom
RUN mkdir /state

FROM gcr.io/distroless/base-nossl-debian12
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="anteroom" \
      org.opencontainers.image.description="Reverse proxy with admission control for model servers on one GPU machine" \
      org.opencontainers.image.source="https://github.com/anteroom-gpu/anteroom" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /anteroom /usr/bin/anteroom
COPY --from=build --chown=65532:65532 /state /var/lib/anteroom
# NVML is what "utility" adds. Which cards are seen is up to --gpus.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=utility
# state.file, relative as it is by default, is in the volume.
WORKDIR /var/lib/anteroom
VOLUME /var/lib/anteroom
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
# It asks the admin listener, by default on the container's own loopback.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/bin/anteroom", "health"]
ENTRYPOINT ["/usr/bin/anteroom"]
CMD ["serve", "-c", "/etc/anteroom/anteroom.yaml", "--listen", "0.0.0.0:8080"]
