// Package languages has Python and Node.js ready for the tests of the examples, with all that the examples import, and the clients
// of Pulp that are written in Python.
//
// # Owns
//
// The search: what is installed is used if it is new enough, and what is missing is fetched, as whoever runs the tests, without
// installing anything. Every part comes through a client that knows where its registry is and what the user has configured:
//
//	Python           the Debian archive, through apt
//	pip              a wheel that is on the machine, or the Debian archive
//	Python packages  pip
//	Node.js and npm  npm, if the machine has one (with an old Node.js); otherwise pip
//	npm packages     npm
//
// What was fetched is kept in the user's cache folder, each part under a name that tells its content: a change of
// requirements.txt or package-lock.json fetches anew, and nothing else does, but for a Python from the archive that no longer
// runs here.
//
// With SLUICE_E2E_LANGUAGES=fetched in the environment, what is installed is not used, which shows that the fetching works.
//
// # Failure
//
// Where a language can't be had the test is skipped, and says what was tried. With SLUICE_E2E_LANGUAGES=required in the
// environment it fails instead; so it does with fetched. An example that does not compile always fails it.
package languages
