# docker build -t moewe .
# docker run --rm -it moewe chat
# docker run --rm -p 127.0.0.1:8080:8080 -v ~/models:/models:ro moewe serve NAME --host 0.0.0.0 --api-key KEY
#
# `--memory` of the container is seen and kept to. NVIDIA cards: `--gpus all`, with NVIDIA's container toolkit.
FROM rust:1.95-bookworm AS build
WORKDIR /moewe
COPY . .
RUN cargo build --locked --profile dist -p moewe

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /moewe/target/dist/moewe /usr/bin/moewe
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/moewe/
ENV MOEWE_MODELS=/models
EXPOSE 8080
ENTRYPOINT ["/usr/bin/moewe"]
CMD ["--help"]
