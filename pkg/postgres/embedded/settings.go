package embedded

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// superuser owns the cluster. Whoever can open the socket is it.
const superuser = "sluice"

const unixPort = 5432

// settings are given on the command line, where neither postgresql.conf nor ALTER SYSTEM can undo them: what Durable
// promises must not depend on a file that somebody edited.
func settings(cfg Config, p paths, socketDir string, port int) []string {
	s := map[string]string{
		"hba_file":                p.hba,
		"unix_socket_directories": `"` + strings.ReplaceAll(socketDir, `"`, `""`) + `"`,
		"unix_socket_permissions": "0700",
		"listen_addresses":        "",
		"port":                    strconv.Itoa(port),
		"password_encryption":     "scram-sha-256",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_line_prefix":         "%m [%p] %d ",
		"logging_collector":       "off",
		"cluster_name":            "sluice",
		"fsync":                   "on",
		"synchronous_commit":      "on",
		"full_page_writes":        "on",
	}
	if cfg.TCP {
		s["listen_addresses"] = "127.0.0.1"
	}
	if !cfg.Durable {
		s["fsync"], s["synchronous_commit"], s["full_page_writes"] = "off", "off", "off"
	}
	maps.Copy(s, cfg.Settings)
	var args []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		args = append(args, "-c", name+"="+s[name])
	}
	return args
}

// hbaText lets everybody in who can open the socket, which is in a folder of mode 0700, and with TCP those who know the
// password. The first line that fits decides; a connection that fits none is refused.
func hbaText(tcp bool) string {
	text := "local all all trust\n"
	if tcp {
		text += "host all all 127.0.0.1/32 scram-sha-256\n"
	}
	return text
}
