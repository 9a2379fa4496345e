# Prints the stories that `go test -v` tells as sentences, each with its result, and what was measured on the way. It fails when a
# story did. Names of stories within a story stand in go test's output with underscores for blanks.

function sentence(name,    i, c, said) {
	sub(/^Test/, "", name)
	gsub(/PostgreSQL/, "Postgresql", name)
	gsub(/PgBouncer/, "Pgbouncer", name)
	for (i = 1; i <= length(name); i++) {
		c = substr(name, i, 1)
		said = said (i > 1 && c ~ /[A-Z]/ ? " " : "") (i > 1 ? tolower(c) : c)
	}
	return said
}

/^ *--- (PASS|FAIL|SKIP): / {
	deep = match($0, /-/) - 1
	said = $0
	sub(/^ *--- (PASS|FAIL|SKIP): /, "", said)
	took = said
	sub(/ \([0-9.]+s\)$/, "", said)
	took = substr(took, length(said) + 2)
	if (deep == 0)
		said = sentence(said)
	else
		sub(/^.*\//, "", said)
	gsub(/_/, " ", said)
	printf "%s%s %s %s\n", substr("                ", 1, deep), tolower(substr($0, deep + 5, 4)), said, took
	fflush()
}

/ MEASURED / {
	sub(/^.* MEASURED /, "")
	measured[++n] = $0
}

/^(FAIL|panic:)/ { failed = 1 }
/^ok / { ended = 1 }

END {
	if (n)
		print "\nmeasured:"
	for (i = 1; i <= n; i++)
		print "  " measured[i]
	exit failed || !ended
}
