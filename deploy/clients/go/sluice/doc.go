// Package sluice is a client that oapi-codegen makes from the OpenAPI document of a running Sluice:
//
//	curl -o api.json 'http://localhost:24817/pulp/api/v3/docs/api.json?pk_path=1&openapi=3.0.3'
//	go tool oapi-codegen -config sluice/oapi-codegen.yaml -o sluice/sluice.gen.go api.json
//
// # Owns
//
// Nothing of its own: all other files in it are generated, and not kept.
//
// # Failure
//
// Functions return the answer with its status; an error is one of the connection, or of an answer that is no JSON.
package sluice
