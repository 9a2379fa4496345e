package gateway

// document is the OpenAPI document in all its flavours.
type document struct{}

func newDocument() (*document, error) { return &document{}, nil }
