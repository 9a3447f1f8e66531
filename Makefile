# The few commands that this project is worked on with. `make help` lists them.

CARGO ?= cargo
# How many events the torture tests send and how many crashes they survive, as a multiple of the everyday size.
HOOKGATE_TORTURE ?= 20

# What the tests need that make faults in disks, clocks and system calls.
FAULTS := faketime strace mkfs.ext4 e2fsck mount findmnt unshare nsenter prlimit

# The tests as they are built every day, against the program as it is released.
TORTURE = HOOKGATE_BINARY=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release/hookgate $(CARGO) nextest run --profile torture --locked

.DEFAULT_GOAL := help
.PHONY: help demo test fmt lint docs unit bench bench-scale bench-rest bench-stores bench-parts instructions torture held fuzz fuzz-minute mutants deny sbom image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## build, then play the story: good, bad, stale and repeated events, an app that is down, slow and back
	@scripts/ensure-tools cargo cc cmake
	@$(CARGO) build --release --locked --bin hookgate
	@$(CARGO) run --release --locked --quiet --bin hookgate -- demo

test: ## everything that has to pass: format, lints, docs, tests, a minute of each reader's fuzz target
	@scripts/ensure-tools cargo cc c++ cmake openssl redis-server cargo-nextest
	@scripts/ensure-tools $(FAULTS) || echo 'tests that need these say so and show nothing' >&2
	@$(MAKE) --no-print-directory --keep-going fmt lint docs unit fuzz-minute

fmt: ## check the format
	@$(CARGO) fmt --all --check

lint: ## clippy, warnings are errors
	@$(CARGO) clippy --locked --all-targets -- -D warnings

docs: ## rustdoc, warnings are errors
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items --quiet

unit: ## all tests, without the checks around them
	@$(CARGO) nextest run --locked --no-fail-fast
	@$(CARGO) test --locked --doc --quiet

bench: ## beside nginx, Lua, njs, HAProxy, Pingora and Python: prints the tables, writes them into docs/PERFORMANCE.md
	@scripts/ensure-tools cargo cc cmake
	@scripts/bench-peers
	@BENCH_PAGE=$(CURDIR)/docs/PERFORMANCE.md $(CARGO) bench --locked --quiet --bench gateway

bench-stores: ## one sender beside the bare disk, how fast a backlog drains, what an event costs Redis
	@scripts/ensure-tools cargo cc cmake redis-server
	@$(CARGO) bench --locked --quiet --bench gateway -- one
	@$(CARGO) bench --locked --quiet --bench gateway -- drain
	@$(CARGO) bench --locked --quiet --bench gateway -- redis

bench-scale: ## memory and p99 against connections, routes, pending and remembered events, sizes
	@scripts/ensure-tools cargo cc cmake
	@$(CARGO) bench --locked --quiet --bench gateway -- scale

bench-rest: ## memory at rest and start to ready; fails past 20 MiB and 200 ms
	@scripts/ensure-tools cargo cc cmake
	@$(CARGO) bench --locked --quiet --bench gateway -- rest

bench-parts: ## the rules, commits and the dedup table, each alone
	@scripts/ensure-tools cargo cc cmake
	@$(CARGO) bench --locked --bench verify --bench disk --bench marks

instructions: ## count the instructions of a request; fails past +5 % of the record
	@scripts/ensure-tools cargo cc cmake
	@scripts/instructions

torture: ## the tests with crashes and floods at many times their everyday size: HOOKGATE_TORTURE=20
	@scripts/ensure-tools cargo cc cmake openssl redis-server cargo-nextest $(FAULTS)
	@$(CARGO) build --release --locked --bin hookgate
	@HOOKGATE_TORTURE=$(HOOKGATE_TORTURE) $(TORTURE) --no-fail-fast --run-ignored all -E 'not test(child_)'

held: ## ten thousand connections that are held against the release build; prints what it measures
	@scripts/ensure-tools cargo cc cmake cargo-nextest
	@$(CARGO) build --release --locked --bin hookgate
	@HOOKGATE_TORTURE=1 $(TORTURE) --no-fail-fast --no-capture --test promises -E 'test(/^held::/)'

fuzz: ## all fuzz targets for FUZZ_SECONDS=60 each, built for it: heads, chunks, frames, paths, configurations, records, signatures
	@scripts/ensure-tools cargo cc c++ cmake
	@CARGO='$(CARGO)' scripts/fuzz

fuzz-minute: ## the six that read what strangers write, built on what the tests have built
	@scripts/ensure-tools cargo cc c++ cmake
	@CARGO='$(CARGO)' scripts/fuzz --with-tests

mutants: ## change what decides over events in one place after the other; prints what no test notices. MUTANTS='-f FILE'
	@scripts/ensure-tools cargo cc cmake openssl redis-server cargo-nextest cargo-mutants
	@$(CARGO) mutants --output target $(MUTANTS)

deny: ## licences, banned crates and sources; known vulnerabilities where their database is at hand
	@scripts/ensure-tools cargo cargo-deny
	@CARGO='$(CARGO)' scripts/deny

sbom: ## what the program is made of, as CycloneDX in hookgate.cdx.json
	@scripts/ensure-tools cargo jq
	@CARGO='$(CARGO)' scripts/sbom

image: ## the container image, with docker or what DOCKER names
	@$(or $(DOCKER),docker) build -f deploy/Dockerfile -t hookgate:local .
