"""One file per step, named as its command; each holds one public function of the same name."""
