// Command asks says what time it is, by both clocks, each time that it is asked: one line of the seconds since 1970 and of the
// monotonic milliseconds since its start.
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func main() {
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(time.Now().Unix(), time.Since(began).Milliseconds())
	}
}
