package task

// SharedPrefix marks a shared resource where both kinds stand in one list, as in Pulp's reserved_resources_record.
const SharedPrefix = "shared:"

// DefaultDomain is the only domain until domains are switched on, and DefaultDomainID its id in every installation.
const (
	DefaultDomain   = "default"
	DefaultDomainID = "00000000-0000-7000-8000-000000000001"
)

// DomainResource names the resource that every task of a domain shares: who takes it exclusively stops the whole domain.
func DomainResource(domainID string) string { return "prn:core.domain:" + domainID }

// Reservation is what a task holds while it runs. Both lists are free of duplicates and have nothing in common.
type Reservation struct {
	Exclusive []string
	Shared    []string
}

// Reserve makes a Reservation from what a client asked for. Duplicates count once; a resource in both lists is exclusive,
// as in Pulp; the domain is shared unless it was asked for exclusively. The order of first mention is kept.
func Reserve(exclusive, shared []string, domainID string) Reservation {
	seen := make(map[string]bool, len(exclusive)+len(shared)+1)
	keep := func(names []string) []string {
		kept := make([]string, 0, len(names)+1)
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				kept = append(kept, name)
			}
		}
		return kept
	}
	r := Reservation{Exclusive: keep(exclusive)}
	r.Shared = keep(append(append([]string(nil), shared...), DomainResource(domainID)))
	return r
}

// Record lists the whole reservation in Pulp's form: exclusive names as they are, shared ones with a prefix.
func (r Reservation) Record() []string {
	record := make([]string, 0, len(r.Exclusive)+len(r.Shared))
	record = append(record, r.Exclusive...)
	for _, name := range r.Shared {
		record = append(record, SharedPrefix+name)
	}
	return record
}
