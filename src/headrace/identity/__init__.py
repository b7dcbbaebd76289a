"""Who a workload is, proved: attests, signs, records and renews workload certificates (docs/reference/identity.md)."""
