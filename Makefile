# The commands that people and CI use. Everything else is `cargo xtask --help`.

# What the host must have; `make packages` installs what is missing.
PACKAGES := gcc libc6-dev git protobuf-compiler qemu-system-x86 qemu-utils ovmf openssh-client ca-certificates curl \
	containerd runc nftables iproute2 swtpm cryptsetup-bin
# The tests drive a real kubectl; Debian's serves where there is none yet.
KUBECTL := $(if $(shell command -v kubectl),,kubernetes-client)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: up down clean-up test check packages

## up: builds everything, boots a machine and runs the demo on it; safe to run again
up: packages
	cargo xtask up

## down: stops the demo machine and its servers
down:
	cargo xtask down

## clean-up: stops the demo and removes .cairn/
clean-up:
	cargo xtask clean-up

## test: all tests, the one in a virtual machine included
test: PACKAGES += $(KUBECTL)
test: packages
	cargo xtask test

## check: formatting, lints, layers, tidiness, documentation
check: packages
	cargo xtask check

packages:
	@missing=""; for package in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "Cairn needs these packages from Debian:$$missing"; \
		$(SUDO) apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
