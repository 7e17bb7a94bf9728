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

FROM gcr.io/distroless/base-nossl-debian12:nonroot
COPY --from=build /anteroom /usr/bin/anteroom
# NVML is what "utility" adds. Which cards are seen is up to --gpus.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=utility
USER nonroot
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/anteroom"]
CMD ["serve", "-c", "/etc/anteroom/anteroom.yaml", "--listen", "0.0.0.0:8080"]
