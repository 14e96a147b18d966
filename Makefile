# Two commands do everything on a fresh Debian or Ubuntu machine with Rust: `make run` and `make test`.

.PHONY: run build test lint fuzz bench setup

# What building needs. FFmpeg's libraries are for transcoding, clang for their bindings, OpenSSL for DTLS with encoders,
# mold to link fast, npm for the HLS player that the pages embed.
BUILD_PACKAGES := build-essential libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev \
	libssl-dev pkg-config clang libclang-dev mold ca-certificates

run: build
	target/release/headwater $(ARGS)

build: setup
	cargo build --release --locked

setup: web/node_modules/hls.js/package.json
	@missing=$$(dpkg-query -W -f='$${db:Status-Status} $${Package}\n' $(BUILD_PACKAGES) 2>&1 | grep -vc '^installed '); \
	if [ "$$missing" != 0 ]; then tests/apt-install.sh $(BUILD_PACKAGES); fi

web/node_modules/hls.js/package.json: web/package-lock.json
	@command -v npm >/dev/null || tests/apt-install.sh npm
	cd web && npm ci --no-audit --no-fund
	@touch $@

# The fuzz targets over their corpora, then unit tests and the real binary with real encoders and browsers. All is built by
# one command: without the tests, libraries would be built with fewer features, and most of them once more afterwards.
test: setup lint
	tests/setup.sh
	cargo build --workspace --locked --bins --tests
	fuzz/run-corpora.sh
	cargo test --workspace --exclude headwater-fuzz --locked --tests --config "target.'cfg(unix)'.runner='$(CURDIR)/tests/at-once.sh'"

# Skipped where the toolchain comes without these two.
lint:
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; else echo "no rustfmt: skipped"; fi
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --workspace --all-targets --locked -- -D warnings; \
	else echo "no clippy: skipped"; fi

# Coverage-guided fuzzing of every parser, a minute each, from its corpus; what it finds goes to fuzz/found, and what is
# worth keeping from there into the corpus. Needs `cargo install cargo-fuzz`; RUSTC_BOOTSTRAP lets the stable compiler
# take the sanitiser flags.
FUZZ_SECONDS ?= 60
fuzz: setup
	cd fuzz && for target in $$(cargo fuzz list); do mkdir -p found/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run $$target found/$$target corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) || exit 1; done

bench: setup
	bench/run.sh
