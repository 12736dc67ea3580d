# Targets: `duet`, the server (the last, and so the default), and `loadtest`, the load generator.
#   docker build -t duet .
#   docker build -t duet-loadtest --target loadtest .

FROM node:22-bookworm-slim AS client
WORKDIR /client
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM rust:1-slim-bookworm AS dependencies
WORKDIR /build
# No line tables: they are most of the binary's size.
ENV CARGO_NET_RETRY=5 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
# Whatever duet is built of but its own code: this layer changes with the lock file only.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
RUN mkdir -p src loadtest/src/bin tests/guarantees tests/model tests/floods \
 && echo 'fn main() {}' | tee src/main.rs build.rs loadtest/src/main.rs loadtest/src/bin/bare-relay.rs \
    tests/guarantees/main.rs tests/model/main.rs tests/floods/main.rs >/dev/null \
 && touch src/lib.rs loadtest/src/lib.rs \
 && cargo build --release --locked -p duet --bin duet -p loadtest --bin loadtest \
 && rm -rf src build.rs loadtest/src target/release/.fingerprint/duet-* target/release/.fingerprint/loadtest-*

FROM dependencies AS build
COPY --from=client /client/node_modules client/node_modules
COPY build.rs package.json package-lock.json .npmrc ./
COPY config config
COPY public public
COPY src src
COPY loadtest/src loadtest/src
# The library comes from the stage before: no npm is needed here.
ENV DUET_BUILD_CLIENT=/build/client/node_modules/socket.io-client
RUN cargo build --release --locked -p duet --bin duet -p loadtest --bin loadtest \
 && mkdir /out && cp target/release/duet target/release/loadtest /out/ \
 && cargo tree --package duet --edges normal --prefix depth --format '{p}|{l}' --locked >/out/tree

FROM client AS sbom
COPY Cargo.lock scripts/sbom.mjs ./
COPY --from=build /out/tree tree
RUN node sbom.mjs tree Cargo.lock package-lock.json >sbom.cdx.json

FROM gcr.io/distroless/cc-debian12:nonroot AS loadtest
LABEL org.opencontainers.image.title="duet loadtest" \
      org.opencontainers.image.description="Load generator for signaling servers of the lesson's contract" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/loadtest /usr/local/bin/loadtest
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/loadtest"]

FROM gcr.io/distroless/cc-debian12:nonroot AS duet
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="duet" \
      org.opencontainers.image.description="Signaling server for WebRTC calls between two peers" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/duet /usr/local/bin/duet
COPY config/cluster.toml /etc/duet/cluster.toml
# What the binary is made of (CycloneDX).
COPY --from=sbom /client/sbom.cdx.json /usr/share/doc/duet/sbom.cdx.json
USER 65532:65532
# Socket.IO and the page; probes and metrics.
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/duet", "health"]
ENTRYPOINT ["/usr/local/bin/duet"]
